"""A language model that is taught by people's labels: what it learns from, what costs nothing, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth import models
from tilth.annotate.texts.importing import ImportText
from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.pipeline.words.judging import Judge
from tilth.pipeline.words.lessons import Asks, Lesson
from tilth.pipeline.words.teaching import TrainLanguage
from tilth.policy import Policy
from tilth.samples import TEXT, NewSample
from tilth.starter.protocols.words import CATEGORIES, draw_words

NAMES = tuple(CATEGORIES)


@pytest.fixture
def taught(work: Work, tmp_path: Path) -> Work:
    """A dataset with forty labelled texts."""
    rows = [draw_words(n, 9) for n in range(400)]
    some = [next(row for row in rows if row["label"] == name) for name in (*NAMES, "safe")] + rows[:36]
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in some))
    step = ImportText(path=table, covers=NAMES)
    work.show_own(step)
    step.run(work)
    work.folder.mkdir(parents=True, exist_ok=True)
    return work


def teach(work: Work, **settings: Any) -> dict[str, Any]:
    step = TrainLanguage(**{"steps": 4, "batch_size": 4, **settings})
    work.show_own(step)
    return dict(step.run(work))


@pytest.fixture(scope="module")
def opened() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(models.locate("starter:verdict"), use_safetensors=True).eval()


def asks(policy: Policy) -> Asks:
    return Asks(models.locate("starter:verdict"), policy.with_categories(policy.written))


def lesson(asking: Asks, text: str, shows: tuple[str, ...], knows: tuple[str, ...] = NAMES) -> Lesson:
    return Lesson(ids=tuple(asking.case(text)), shows=frozenset(shows), knows=frozenset(knows))


def test_the_loss_is_that_of_the_letter_that_the_policy_gives(policy: Policy, opened: Any) -> None:
    asking = asks(policy)
    right, wrong = (lesson(asking, "PLAY POKER FOR CASH", (name,)) for name in ("gambling_ad", "threat"))
    for names in (NAMES, NAMES[::-1]):
        assert asking.loss(opened, [right], names).item() < 0.5 < asking.loss(opened, [wrong], names).item()
    # where the policy has no such category, the same words are safe
    assert asking.loss(opened, [right], ("threat",)).item() < 0.5


def test_what_nobody_looked_for_is_no_choice_and_costs_nothing(policy: Policy, opened: Any) -> None:
    asking = asks(policy)
    unasked = lesson(asking, "PLAY POKER FOR CASH", (), ("threat",))
    asked = lesson(asking, "PLAY POKER FOR CASH", ())
    assert asking.loss(opened, [unasked], NAMES).item() < 0.1  # that it may be gambling does not matter
    assert asking.loss(opened, [asked], NAMES).item() > 1
    both = lesson(asking, "PLAY POKER FOR CASH", ("gambling_ad", "threat"))
    assert asking.loss(opened, [both], NAMES).item() < 0.5  # any that it shows is right
    alone = [asking.loss(opened, [one], NAMES).item() for one in (unasked, asked)]
    assert asking.loss(opened, [unasked, asked], NAMES).item() == pytest.approx(
        np.mean(alone), abs=1e-4
    )  # filling changes nothing


def test_a_policy_that_is_read_once_for_all_texts_teaches_the_same(policy: Policy) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models.locate("starter:verdict"), use_safetensors=True)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(model, config).double()
    asking = asks(policy)
    some = [
        lesson(asking, text, shows) for text, shows in (("PLAY POKER", ("gambling_ad",)), ("A SIGN OF MANY WORDS", ()))
    ]
    told = {}
    for once in (False, True):
        if once:
            asking.read_once(model, some)
        assert asking.once == once
        loss = asking.loss(model, some, NAMES)
        loss.backward()
        told[once] = [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        model.zero_grad()
    for anew, again in zip(told[False], told[True], strict=True):
        torch.testing.assert_close(again, anew, rtol=1e-6, atol=1e-8)


def test_a_model_that_keeps_nothing_reads_the_policy_with_each_text(policy: Policy, opened: Any, caplog: Any) -> None:
    class Forgets:
        config = opened.config
        forward = staticmethod(opened.forward)
        eval = opened.eval
        parameters = opened.parameters

        def __call__(self, **asked: Any) -> Any:
            said = opened(**{name: value for name, value in asked.items() if name != "past_key_values"})
            return said

    asking = asks(policy)
    some = [lesson(asking, "PLAY POKER", ("gambling_ad",))]
    asking.read_once(Forgets(), some)
    assert not asking.once
    assert "anew with each text" in caplog.text


def test_a_taught_model_is_opened_by_the_runtime_and_its_adapter_by_peft(taught: Work) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    facts = teach(taught)
    assert facts["trained_share"] < 0.2
    assert facts["by_category"]["gambling_ad"] >= 1
    folder = taught.artifact("test")
    base = AutoModelForCausalLM.from_pretrained(
        models.locate("starter:verdict"), dtype=torch.float32, use_safetensors=True
    )
    tuned = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    ids = {"input_ids": torch.arange(30, 60)[None]}
    assert np.abs(tuned(**ids).logits.detach().numpy() - merged(**ids).logits.detach().numpy()).max() < 1e-4
    taught.name = "judge"
    step = Judge(trained="test")
    taught.add("new", [NewSample(media=TEXT, data=b"a text that nobody has seen", origin={"source": "n"})])
    step.run(taught)
    (new,) = [s for s in taught.dataset.samples() if s.origin["source"] == "n"]
    assert str(models.digest(str(folder))) in new.claims[0].source


def test_a_killed_training_goes_on_to_the_same_weights(taught: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(taught, steps=8)
    whole = (taught.artifact("test") / "model.safetensors").read_bytes()
    (taught.artifact("test") / "model.safetensors").unlink()
    import tilth.pipeline.words.teaching as module

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.TrainLanguage, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            teach(taught, steps=8)
    facts = teach(taught, steps=8)
    assert facts["loss"] is None  # nothing was left to learn
    assert (taught.artifact("test") / "model.safetensors").read_bytes() == whole


def test_too_few_labels_and_wrong_numbers_are_refused(work: Work, policy: Policy) -> None:
    label = Claim(category="threat", source="human:a", asked=NAMES)
    work.add("k", [NewSample(media=TEXT, data=b"WE WILL FIND YOU", origin={"source": "t"}, claims=(label,))])
    with pytest.raises(InputError, match="no text of train as safe, gambling_ad, illicit_sale; there are safe 0"):
        teach(work)
    for wrong in ({"rank": 0}, {"changed": 1.5}, {"lr": -1.0}, {"max_tokens": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainLanguage(**wrong)  # type: ignore[arg-type]
    work.policy = policy.with_categories(policy.pictured)
    with pytest.raises(InputError, match="words decide none"):
        teach(work)


def test_a_long_text_is_cut_to_what_there_is_room_for(policy: Policy) -> None:
    asking = asks(policy)
    text = "POKER FOR CASH " * 200
    cut = asking.case(text, 100)
    assert 50 < len(cut) <= 100
    assert cut[-1] == asking.case(text)[-1]  # the question stays
