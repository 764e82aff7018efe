"""A tiny LLaVA with random weights in a folder, as a hub folder has it; it answers in letters and blanks."""

import string
from pathlib import Path

import torch

TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


def write_llava(folder: Path) -> Path:
    """Config, weights, tokenizer and processor of a 2-layer LLaVA for 16 px pictures."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<image>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=16).to_dict(),
        text_config=LlamaConfig(
            **small, vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
            pad_token_id=0,
        ).to_dict(),
        image_token_index=3, vision_feature_layer=-2, image_seq_length=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    speakable = {vocabulary[letter] for letter in string.ascii_letters} | {vocabulary["Ġ"]}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)  # transformers starts with small weights, under which every answer is the same letter
        mute = [i for i in range(len(tokenizer)) if i not in speakable]
        model.lm_head.weight[mute] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
