"""Score the miniature BLIP-2 as a search engine over held-out scenes: precision at 10, by ITC and after ITM."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertTokenizer, Blip2ForImageTextRetrieval

from tilth.starter.grounding.tokenizer import NAMES
from tilth.starter.retrieval.captions import Request
from tilth.starter.retrieval.model import image_vectors, match_logits, text_vectors, tokenize, vision_states
from tilth.starter.world.pixels import CLIP, to_pixels
from tilth.starter.world.scene import STYLES, Scene, article
from tilth.starter.world.sets import COLOR_NAMES, KIND_NAMES
from tilth.starter.world.surfaces import SURFACES

RERANKED = 60
QUESTIONS: dict[str, list[tuple[str, Request]]] = {
    "kind": [(article(kind), Request(things=(("", kind),))) for kind in KIND_NAMES],
    "color_kind": [
        (article(f"{color} {kind}"), Request(things=((color, kind),))) for kind in KIND_NAMES for color in COLOR_NAMES
    ],
    "synonym": [(article(name), Request(things=(("", kind),))) for kind, names in NAMES.items() for name in names[1:]],
    "photo_of": [(f"a photo of {article(kind)}", Request(things=(("", kind),))) for kind in KIND_NAMES],
    "style": [(f"{style} style", Request(style=style)) for style in STYLES],
    "surface": [(words, Request(surface=surface)) for surface, words in SURFACES.items()],
}


@torch.no_grad()
def score(
    model: Blip2ForImageTextRetrieval,
    tokenizer: BertTokenizer,
    images: npt.NDArray[np.uint8],
    scenes: Sequence[Scene],
    device: torch.device,
    *,
    groups: Sequence[str] = tuple(QUESTIONS),
) -> dict[str, float]:
    """Search images `(n, 64, 64, 3)` for every question of the groups.

    Returns:
        For each group the mean precision among the first 10, by ITC (`p10_itc_<group>`) and after the best 60 have been
        ordered by ITM (`p10_itm_<group>`), and the least of the latter over its questions (`p10_itm_<group>_least`).
    """
    states = torch.cat(
        [vision_states(model, to_pixels(images[i : i + 100], CLIP, device)) for i in range(0, len(images), 100)]
    )
    vectors = torch.cat([image_vectors(model, part) for part in torch.split(states, 100)])
    result: dict[str, float] = {}
    for group in groups:
        plain, ranked = [], []
        for text, request in QUESTIONS[group]:
            right = torch.tensor([request.holds(scene) for scene in scenes])
            if not right.any():
                continue
            among = min(10, int(right.sum()))
            ids, mask = tokenize(tokenizer, [text], device)
            similarity = (vectors @ text_vectors(model, ids, mask)[0]).max(1).values
            top = similarity.topk(RERANKED).indices
            match = match_logits(model, states[top], ids.expand(RERANKED, -1), mask.expand(RERANKED, -1)).diff(dim=1)[
                :, 0
            ]
            plain.append(right[top.cpu()][:10].float().sum().item() / among)
            ranked.append(right[top[match.argsort(descending=True)].cpu()][:10].float().sum().item() / among)
        result[f"p10_itc_{group}"] = round(float(np.mean(plain)), 4)
        result[f"p10_itm_{group}"] = round(float(np.mean(ranked)), 4)
        result[f"p10_itm_{group}_least"] = round(float(np.min(ranked)), 4)
    return result
