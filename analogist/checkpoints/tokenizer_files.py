"""CLIP's published tokenizer as the files of a tokenizer/ folder. They go into checkpoints that are written for other programs."""

import json

from analogist.checkpoints.text_encoder import END, START, _published_table
from analogist.weights.checkpoint import Checkpoint


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """File name -> content; empty if the checkpoint has its own tokenizer or another vocabulary."""
    vocabulary, merges = _published_table()
    if checkpoint.tokenizer is not None or checkpoint.text["vocab_size"] != len(vocabulary):
        return {}
    pad = next(word for word, number in vocabulary.items() if number == checkpoint.pad_token_id).removesuffix("</w>")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": checkpoint.text["max_position_embeddings"], "do_lower_case": True}
    merges_text = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": merges_text.encode(),
        "special_tokens_map.json": json.dumps(special, indent=2).encode(),
        "tokenizer_config.json": json.dumps(config | special, indent=2).encode(),
    }
