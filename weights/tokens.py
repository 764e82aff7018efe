"""The token that pads prompts to full length, from configs and tokenizer files."""

from pathlib import Path

from .configs import Settings, read_json
from .errors import WeightsError
from .model_families import END_TOKEN, SD15, SDXL, Family


def padding_id(settings: Settings, family: Family) -> int:
    """The padding token's id: said, else the tokenizer folder's, else the family's (SD 1 and SDXL: the end token; SD 2: 0).

    Raises WeightsError for a value that is not a token id, or a padding token outside the folder's vocabulary.
    """
    said = settings.extra.get("pad_token_id")
    if said is not None:
        if type(said) is not int or said < 0:
            raise WeightsError(f"pad_token_id is {said!r}; expected a token id")
        return said
    if settings.tokenizer is not None:
        found = _of_folder(settings.tokenizer)
        if found is not None:
            return found
    return END_TOKEN if family.base in (SD15, SDXL) else 0


def second_padding_id(settings: Settings) -> int:
    """The padding token's id of SDXL's second encoder: its tokenizer folder's, else 0 (published)."""
    found = _of_folder(settings.tokenizer_2) if settings.tokenizer_2 is not None else None
    return 0 if found is None else found


def _of_folder(folder: Path) -> int | None:
    """The id of a tokenizer folder's padding token; special_tokens_map.json wins over tokenizer_config.json, as in
    transformers.
    """
    token = None
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if token is None and (folder / name).is_file():
            token = read_json(folder / name).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return None
    if not isinstance(token, str):
        raise WeightsError(f"{folder}: its padding token is {str(token)[:80]!r}; expected a text")
    if (folder / "vocab.json").is_file():
        found = read_json(folder / "vocab.json").get(token)
    elif (folder / "tokenizer.json").is_file():
        table = read_json(folder / "tokenizer.json")
        listed, model = table.get("added_tokens"), table.get("model")
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        ids = [entry.get("id") for entry in entries if entry.get("content") == token]
        found = ids[-1] if ids else vocabulary.get(token) if isinstance(vocabulary, dict) else None
    else:
        found = None
    if type(found) is not int:
        raise WeightsError(f"{folder}: its padding token {token!r} is not in its vocabulary")
    return found
