"""Trains the byte-level BPE tokenizer on the project's own questions and answers.

`python make_tokenizer.py OUT` writes tokenizer.json, vocab.json, merges.txt and
tokenizer_config.json as a Qwen2 tokenizer has them. Every byte is a token, so any text can be encoded. The result is in the tree
and stays as it is: weights depend on it.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

import questions

VOCAB_SIZE = 640
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)
# The published split pattern of Qwen2's tokenizers: words with one leading space, single digits.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EVERYDAY_TEXT = (
    "You are a helpful assistant. Please answer the question about the picture in one word. "
    "Thank you. I would like to know what this is and where it can be found. It was not there, "
    "but they have some of them with us. There is no circle. There is no number. The number is "
    "on the paper. She said that he will come from the house and that we should give her the "
    "time. When you are done, make the next one for me. People do not think about how it works. "
    "user\n assistant\n system\n"
)


def corpus():
    """Questions with all fillings and spellings, answers, and a little everyday text."""
    rng = random.Random(0)
    lines = [EVERYDAY_TEXT, questions.GREETING_ANSWER] * 20
    for kind in questions.KINDS:
        for colour in questions.COLOURS:
            for name in questions.PARAPHRASES:
                for _ in range(12):
                    question = questions.ask(name, rng, colour, kind)
                    lines += [question, questions.roughen(question, rng)]
            shapes = [(colour, kind), (rng.choice(questions.COLOURS), kind)]
            lines += [questions.answer_describe(shapes), questions.answer_shape(shapes[0])] * 20
            lines += [questions.answer_colour(shapes, kind), "Yes.", "No."] * 20
    lines += ["The first.", "The second.", "Neither.", "The number 42."] * 100
    return lines


def build():
    """The trained tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))
    tokenizer.add_special_tokens([
        AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS
    ])
    return tokenizer


def tokenizer_config(tokenizer, chat_template):
    """What transformers reads beside tokenizer.json."""
    added = {
        str(tokenizer.token_to_id(text)): {
            "content": text, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for text in SPECIAL_TOKENS
    }
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def main(folder):
    """Write both files; the chat template comes from chat_template.jinja beside this script."""
    tokenizer = build()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    template = (Path(__file__).parent / "chat_template.jinja").read_text()
    config = json.dumps(tokenizer_config(tokenizer, template), indent=2)
    (folder / "tokenizer_config.json").write_text(config + "\n")
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": template}, indent=2) + "\n"
    )
    print(tokenizer.get_vocab_size(), "tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
