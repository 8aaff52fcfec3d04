"""Model goldens: prompts, positions, encoder rows, logits and greedy tokens of a checkpoint."""

import torch

import common

MIN_MARGIN = 0.2
N_VARIANTS = 400  # spellings of a prompt tried until every margin is clear
N_LAST = 8  # positions whose logits are stored where not all are

RED = common.smooth(60, 60, [[1, 0, 255], [2, 3, 0], [0, 1, 40]])
WIDE = common.smooth(150, 44, [[3, 1, 10], [1, 4, 200], [5, 0, 300]])
TALL = common.noise(40, 130, 5)
TINY = common.noise(9, 7, 6)
LARGE = common.smooth(301, 222, [[2, 1, 0], [1, 2, 128], [3, 1, 256]])

LONG = (
    "There is a red circle on the left and a blue square on the right. "
    "How many shapes are there, and which of them is furthest left? "
    "日本語の文章です。 Les élèves déjà arrivés; for i in range(10): print(i)."
)


def user(*parts):
    """A user turn: strings and pictures, in order."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    return {"role": "user", "content": content}


def turn(role, text):
    return {"role": role, "content": text}


# name, messages, pictures; `{}` takes the variant that makes the margins clear.
PROMPTS = [
    ("text_only", [turn("user", "Hello there{}")], []),
    ("long_text", [turn("user", LONG + "{}")], []),
    ("one_image", [user(RED, "What is in the picture{}")], [RED]),
    ("image_last", [user("What is in the picture{}", WIDE)], [WIDE]),
    ("smallest_image", [user("Look: ", TINY, " {}")], [TINY]),
    ("two_images", [user(TALL, "The first picture{}", WIDE, "has more shapes?")], [TALL, WIDE]),
    (
        "three_images_in_turns",
        [
            turn("system", "Answer in one word{}"),
            user(LARGE, TALL, "Which is larger?"),
            turn("assistant", "The first."),
            user("And this one? " + LONG, RED),
        ],
        [LARGE, TALL, RED],
    ),
    ("same_image_twice", [user(RED, RED, "Is there a difference{}")], [RED, RED]),
]
FEW = ["text_only", "two_images"]  # of a checkpoint that is only there to be different


def named(*names):
    """Some of the prompts."""
    return [prompt for prompt in PROMPTS if prompt[0] in names]


class Family:
    """What is different from one architecture to the next."""

    whole = ["text_only", "one_image", "two_images"]  # logits of all positions
    steps = ["text_only", "two_images", "three_images_in_turns"]  # logits of the decode steps
    pixels = ["smallest_image"]
    inside = "smallest_image"

    def __init__(self, model, processor, hooks):
        self.model, self.processor, self.hooks = model, processor, hooks

    def messages(self, messages):
        """As the reference's template takes them."""
        return messages

    def positions(self, inputs):
        """Rotary positions `[3, length]` of the prompt, and the delta of what follows."""
        length = inputs["input_ids"].shape[1]
        return torch.arange(length).expand(3, -1), 0

    def grids(self, inputs):
        """`[t, h, w]` of each picture, in patches."""
        raise NotImplementedError

    def pixel_rows(self, inputs):
        """The tower's input, a row for each patch."""
        raise NotImplementedError

    def encode(self, inputs):
        """Encoder rows of each picture."""
        raise NotImplementedError

    def forget(self):
        """Drops what a run leaves in the model."""


def write(name, index_name, checkpoint, family, chosen):
    """`index_name`.json and .safetensors, of the `chosen` prompts."""
    place = common.folder(name, "model")
    tensors, prompts = {}, []
    for prompt in chosen:
        prompts.append(golden(family, prompt, tensors))
        print(f"  {prompt[0]}: {len(prompts[-1]['input_ids'])} tokens")
    common.write_tensors(place / f"{index_name}.safetensors", tensors)
    content = {
        "checkpoint": f"../{checkpoint}",
        "tensors_file": f"{index_name}.safetensors",
        "vocab_size": family.model.config.text_config.vocab_size,
        "n_steps": common.N_STEPS,
        "min_margin": min(min(prompt["margins"]) for prompt in prompts),
        "prompts": prompts,
    }
    common.write_json(place / f"{index_name}.json", content)


def golden(family, prompt, tensors):
    """One prompt's entry; its tensors are added to `tensors`."""
    name, _, pictures = prompt
    model, processor = family.model, family.processor
    messages, text, inputs, greedy, steps = clear_variant(family, prompt)
    ids = inputs["input_ids"][0].tolist()
    positions, delta = family.positions(inputs)
    rows = family.encode(inputs) if pictures else []
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    assert torch.allclose(logits[-1], steps[0], atol=1e-4)

    def keep(key, tensor):
        tensors[f"{name}.{key}"] = tensor
        return f"{name}.{key}"

    start = 0 if name in family.whole else max(0, len(ids) - N_LAST)
    pixels = keep("pixel_values", family.pixel_rows(inputs)) if name in family.pixels else None
    return {
        "name": name,
        "messages": messages,
        "pictures": pictures,
        "text": text,
        "short_ids": processor.tokenizer(text).input_ids,
        "input_ids": ids,
        "image_grid_thw": family.grids(inputs) if pictures else [],
        "image_spans": spans(ids, [len(one) for one in rows], model.config.image_token_id),
        "position_ids": positions.tolist(),
        "rope_delta": int(delta),
        "encoder": keep("encoder", torch.cat(rows)) if pictures else None,
        "pixel_values": pixels,
        "logits": keep("logits", logits[start:]),
        "logits_start": start,
        "greedy": greedy.tolist(),
        "margins": [round(margin, 4) for margin in common.margins(steps)],
        "greedy_text": processor.tokenizer.decode(greedy, skip_special_tokens=False),
        "decode_logits": keep("decode_logits", steps) if name in family.steps else None,
        "inside": inside(family, inputs, keep) if family.hooks and name == family.inside else None,
    }


def clear_variant(family, prompt):
    """The first spelling whose greedy tokens have clear margins and do not just repeat."""
    name, template, pictures = prompt
    processor = family.processor
    for variant in range(N_VARIANTS):
        messages = spelled(template, f" {variant}?" if variant else "?")
        given = family.messages(messages)
        text = processor.apply_chat_template(given, add_generation_prompt=True)
        drawn = [common.draw(picture, None) for picture in pictures] or None
        inputs = dict(processor(text=[text], images=drawn, return_tensors="pt"))
        greedy, steps = common.greedy(family.model, inputs)
        repeats = len(set(greedy.tolist())) < common.N_STEPS // 3
        if min(common.margins(steps)) >= MIN_MARGIN and not repeats:
            return messages, text, inputs, greedy, steps
    raise SystemExit(f"{name}: no variant has clear margins; choose another seed")


def spelled(template, ending):
    """The messages with `{}` replaced."""
    if isinstance(template, str):
        return template.replace("{}", ending)
    if isinstance(template, list):
        return [spelled(item, ending) for item in template]
    return {key: spelled(value, ending) for key, value in template.items()}


def spans(ids, lengths, image_token):
    """Start and length of each image's run of placeholders."""
    result, cursor = [], 0
    for length in lengths:
        start = ids.index(image_token, cursor)
        assert ids[start : start + length] == [image_token] * length
        result.append([start, length])
        cursor = start + length
    assert ids.count(image_token) == sum(lengths)
    return result


def inside(family, inputs, keep):
    """Outputs of the hooked modules, and the embeddings that enter the first layer."""
    found, hooks = {}, family.hooks

    def record(name):
        def hook(module, args, output):
            value = output[0] if isinstance(output, tuple) else output
            found[name] = value[0] if value.dim() == 3 else value

        return hook

    def enter(module, args, kwargs):
        found["inputs_embeds"] = (args[0] if args else kwargs["hidden_states"])[0]

    layer = hooks["text_layer_0"]
    handles = [module.register_forward_hook(record(name)) for name, module in hooks.items()]
    handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
    with torch.no_grad():
        family.model(**inputs)
    for handle in handles:
        handle.remove()
    family.forget()
    return {name: keep(name, value) for name, value in sorted(found.items())}
