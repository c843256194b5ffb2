"""The miniature BLIP-2 and the pieces of its forward pass that training and search need one at a time."""

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
)

from tilth.starter.grounding.tokenizer import MAX_TOKENS, VOCABULARY_SIZE
from tilth.starter.retrieval.vision import PATCH
from tilth.starter.world.pixels import CLIP

SIDE = 64
QUERIES = 8
_IMAGE_TOKEN = VOCABULARY_SIZE  # the processor appends `<image>` to the vocabulary


def build() -> Blip2ForImageTextRetrieval:
    """Make the model with random weights: 8 queries instead of 32, 2 million parameters instead of 1.2 billion."""
    vision = Blip2VisionConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.02,  # the default of 1e-10 is for weights that get loaded
    )
    qformer = Blip2QFormerConfig(
        vocab_size=VOCABULARY_SIZE + 1,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        cross_attention_frequency=1,
        encoder_hidden_size=192,
        use_qformer_text_input=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    unused = OPTConfig(  # the configuration names a language model; this class has none
        vocab_size=VOCABULARY_SIZE + 1,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        num_attention_heads=1,
        word_embed_proj_dim=16,
        max_position_embeddings=16,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=unused.to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=96,
        image_token_index=_IMAGE_TOKEN,
    )
    model = Blip2ForImageTextRetrieval(config)
    nn.init.normal_(model.query_tokens, std=0.5)  # zeros would make all queries the same for ever
    return model


def processor(tokenizer: BertTokenizer) -> Blip2Processor:
    """Make the processor: 64 x 64 px, the mean and deviation of CLIP."""
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=list(CLIP[0]), image_std=list(CLIP[1]))
    return Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def tokenize(tokenizer: BertTokenizer, texts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, each `(n, longest)`."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt").to(device)
    return tokens["input_ids"], tokens["attention_mask"]


def _all(states: torch.Tensor) -> torch.Tensor:
    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)


def vision_states(model: Blip2ForImageTextRetrieval, pixels: torch.Tensor) -> torch.Tensor:
    """Encode pixels `(n, 3, 64, 64)` as `(n, 65, 192)`."""
    states: torch.Tensor = model.vision_model(pixel_values=pixels)[0]
    return states


def image_vectors(model: Blip2ForImageTextRetrieval, states: torch.Tensor) -> torch.Tensor:
    """Return the unit vectors of the queries, `(n, 8, 96)`; similarity to a text is the maximum over them."""
    queries = model.query_tokens.expand(len(states), -1, -1)
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=_all(states))
    return functional.normalize(model.vision_projection(seen.last_hidden_state).float(), dim=-1)


def text_vectors(model: Blip2ForImageTextRetrieval, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return unit vectors `(n, 96)` of texts."""
    read = model.qformer(query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask)
    return functional.normalize(model.text_projection(read.last_hidden_state[:, 0]).float(), dim=-1)


def match_logits(
    model: Blip2ForImageTextRetrieval, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the ITM logits `(n, 2)` of pairs: no match, match."""
    queries = model.query_tokens.expand(len(states), -1, -1)
    both = model.qformer(
        query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
        query_length=QUERIES,
        attention_mask=torch.cat([_all(queries), mask], 1),
        encoder_hidden_states=states,
        encoder_attention_mask=_all(states),
    )
    logits: torch.Tensor = model.itm_head(both.last_hidden_state[:, :QUERIES])
    return logits.mean(1).float()
