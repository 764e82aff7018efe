"""A vision-language model on this machine, through transformers' image-text-to-text classes."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from analogist.disk.writing import shown
from analogist.prompting.asking import AskingPrompter
from analogist.prompting.prompts import PromptError

NEEDS_TORCHVISION = "this model's processor needs torchvision, which is not installed: pip install 'analogist[local-vlm]'"


class LocalPrompter(AskingPrompter):
    """A local model, loaded at the first question and kept for later ones."""

    kind = "local"

    def __init__(
        self, model: str | Path, *, device: str | None = None, dtype: str | None = None, max_tokens: int = 60,
        wording: str = "published", candidates: int = 1, words: int | None = 5, cache: bool | str | Path = True,
    ) -> None:  # fmt: skip
        """model: a folder or hub id. device None: cuda, else mps, else cpu. dtype None: float16 on cuda, else float32.
        max_tokens: of the answer. The rest as AskingPrompter. Decoding is greedy, so the same question always has the same answer.
        Raises ValueError for a device that is not available or an unknown dtype.
        """
        super().__init__(wording=wording, candidates=candidates, words=words, cache=cache)
        from analogist.checkpoints.devices import pick_device, pick_dtype

        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or not 1 <= max_tokens <= 100_000:
            raise PromptError(f"max_tokens {max_tokens!r}: a whole number in 1..100000 is allowed")
        self.name = str(model)
        if not self.name.strip():
            raise PromptError("the local model has no name; give --prompter-model, the folder or hub id of a vision-language model")
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.max_tokens = max_tokens

    def identity(self) -> dict[str, object]:
        folder = Path(self.name)
        name = folder.resolve().name if folder.is_dir() else self.name
        return {
            "model": name,
            "content": self._content,
            "max_tokens": self.max_tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @cached_property
    def _content(self) -> str:
        """Distinguishes models of the same name: a hash of a folder's files, or the hub's commit."""
        folder = Path(self.name)
        if not folder.is_dir():
            return str(getattr(self._loaded[1].config, "_commit_hash", None))
        key = hashlib.sha256()
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            with path.open("rb") as file:  # of weights only the header and the first numbers, of other files everything
                key.update(f"{path.name} {path.stat().st_size}\n".encode() + hashlib.sha256(file.read(4 * 2**20)).digest())
        return key.hexdigest()[:16]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """(processor, model)."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(self.name)
            model: Any = AutoModelForImageTextToText.from_pretrained(self.name, dtype=self.dtype)
        except ImportError as error:
            if "torchvision" in str(error).lower():
                raise PromptError(f"{shown(self.name)}: {NEEDS_TORCHVISION}") from None
            raise PromptError(f"{shown(self.name)}: cannot be loaded ({_line(error)})") from None
        except Exception as error:  # transformers raises many kinds of error for a folder of another kind
            raise PromptError(
                f"{shown(self.name)}: cannot be loaded as an image-text-to-text model ({_line(error)}); give the folder of one, or a "
                "hub id (HF_HUB_OFFLINE must not be set unless it is in the cache)"
            ) from None
        return processor, model.to(self.device).eval()

    def answer(self, picture: Image.Image, question: str) -> str:
        import torch

        processor, model = self._loaded
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        if getattr(processor, "chat_template", None) is None:
            raise PromptError(
                f"{shown(self.name)}: its processor has no chat template; try an instruction-tuned model"
            )
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device)
        inputs = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        # Special tokens are kept here, because some models mark their thoughts with them. The parser removes them.
        return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=False)


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split())[:240] or type(error).__name__)
