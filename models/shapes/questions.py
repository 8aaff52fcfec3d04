"""Question kinds, their paraphrases and the one right answer of each.

Shared by training and evaluation. Knows nothing of pixels, tokens or models: a picture is here
either a tuple of (colour, kind) pairs from left to right, or a number written as a string.
"""

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black")
KINDS = ("circle", "square", "triangle", "star")

GREETING_ANSWER = (
    "Hello! Send me a picture and I can name its shapes, count them, or read a number."
)

# The first paraphrase of each kind is the canonical one. {kind} and {colour} are filled in;
# {a} is the article of the colour.
PARAPHRASES = {
    "describe": (
        "What is in the picture?",
        "What do you see?",
        "Describe the picture.",
        "What does the picture show?",
        "Which shapes are in the picture?",
        "Name the shapes from left to right.",
        "List the shapes in this picture.",
        "What can you see in this picture?",
        "What's in this picture?",
        "What shapes are there?",
    ),
    "count": (
        "How many shapes are there?",
        "How many shapes are in the picture?",
        "Count the shapes.",
        "How many shapes do you see?",
        "How many shapes can you count?",
        "What is the number of shapes?",
        "How many objects are there?",
        "How many shapes does the picture have?",
    ),
    "colour": (
        "What colour is the {kind}?",
        "Which colour is the {kind}?",
        "What is the colour of the {kind}?",
        "What colour does the {kind} have?",
        "Tell me the colour of the {kind}.",
        "The {kind} is what colour?",
        "Name the colour of the {kind}.",
    ),
    "exists": (
        "Is there {a} {colour} {kind}?",
        "Is there {a} {colour} {kind} in the picture?",
        "Do you see {a} {colour} {kind}?",
        "Can you see {a} {colour} {kind}?",
        "Does the picture show {a} {colour} {kind}?",
        "Does the picture have {a} {colour} {kind}?",
        "Is {a} {colour} {kind} in the picture?",
    ),
    "leftmost": (
        "Which shape is furthest left?",
        "Which shape is furthest to the left?",
        "Which shape is farthest left?",
        "What is the leftmost shape?",
        "Which shape is leftmost?",
        "What shape is on the far left?",
        "Which is the first shape from the left?",
    ),
    "rightmost": (
        "Which shape is furthest right?",
        "Which shape is furthest to the right?",
        "Which shape is farthest right?",
        "What is the rightmost shape?",
        "Which shape is rightmost?",
        "What shape is on the far right?",
        "Which is the first shape from the right?",
    ),
    "number": (
        "What number is written?",
        "Which number is written?",
        "What number is this?",
        "Read the number.",
        "What number do you see?",
        "What is the number in the picture?",
        "Which number is in the picture?",
        "What number does the picture show?",
        "What does the number say?",
    ),
    "compare": (
        "Which picture has more shapes?",
        "Which of the two pictures has more shapes?",
        "Which picture shows more shapes?",
        "In which picture are there more shapes?",
        "Where are there more shapes?",
        "Which one has more shapes?",
    ),
    "greeting": (
        "Hello!",
        "Hi",
        "Hello, who are you?",
        "Hi there!",
        "Good morning!",
        "Good evening",
        "Good day",
        "Hey",
        "Hello there",
        "Greetings!",
        "What can you do?",
        "Who are you?",
        "Help",
        "How are you?",
        "What is this?",
        "Hello, what can you do?",
        "Nice to meet you.",
        "Thanks!",
        "Can you help me?",
        "How do I use this?",
    ),
}

# Further ways to ask the same: learnt, but not part of the evaluation.
MORE_PARAPHRASES = {
    "describe": ("Give me a list of the shapes.", "Tell me what you see.", "What is shown here?",
                 "Can you describe the picture?", "What is this?", "What's this?", "Describe it.",
                 "What do you see in this picture?", "Describe the picture from left to right.",
                 "Which shapes do you see?", "What are the shapes?", "List everything you see."),
    "count": ("How many?", "Number of shapes?", "How many shapes are visible?", "Count them.",
              "Can you count the shapes?", "How many shapes are drawn here?", "How many are there?",
              "Can you tell me how many shapes there are?", "How many things are there?"),
    "colour": ("Colour of the {kind}?", "What's the colour of the {kind}?", "And the {kind}?",
               "What colour is that {kind}?", "Can you tell me the colour of the {kind}?",
               "In which colour is the {kind} drawn?"),
    "exists": ("Is there any {colour} {kind}?", "Can you find a {colour} {kind}?",
               "Does the picture contain a {colour} {kind}?", "Is a {colour} {kind} there?",
               "Are there any {colour} {kind}s?", "And a {colour} {kind}?"),
    "leftmost": ("What is on the left?", "Which shape is on the left?", "Name the leftmost shape.",
                 "What's the leftmost shape?", "What shape is leftmost?", "What is the first shape?",
                 "What is furthest left?", "What do you see on the left?"),
    "rightmost": ("What is on the right?", "Which shape is on the right?", "What is the last shape?",
                  "Name the rightmost shape.", "What's the rightmost shape?", "What is furthest right?",
                  "What shape is rightmost?", "What do you see on the right?"),
    "number": ("What is written?", "What does it say?", "What's the number?", "Read it.",
               "Which digits are shown?", "What is written in the picture?", "Which number is it?",
               "What number is shown?", "Can you read the number?", "Tell me the number.",
               "What is written here?"),
    "compare": ("Which picture contains more shapes?", "Which of these has more shapes?",
                "Does the first or the second picture have more shapes?", "Which has more?",
                "Are there more shapes in the first or in the second picture?",
                "Which of them shows more shapes?"),
    "greeting": ("What do you do?", "What are you?", "Tell me about yourself.", "Good afternoon",
                 "How does this work?", "Hello model", "Test", "Yo", "What's up?"),
}
MORE_SHARE = 0.3
# Other questions about shapes that people ask; learnt, but not part of the evaluation.
EXTRA_PARAPHRASES = {
    "exists_kind": ("Is there a {kind}?", "Do you see a {kind}?", "Is there any {kind}?",
                    "Can you see a {kind}?", "Are there any {kind}s?"),
    "exists_colour": ("Is there a {colour} shape?", "Is there anything {colour}?",
                      "Is any shape {colour}?", "Do you see a {colour} shape?"),
    "count_kind": ("How many {kind}s are there?", "How many {kind}s do you see?",
                   "Count the {kind}s.", "How many {kind}s are in the picture?"),
    "count_colour": ("How many {colour} shapes are there?", "How many shapes are {colour}?",
                     "Count the {colour} shapes."),
    "colour_leftmost": ("What colour is the leftmost shape?", "What colour is the first shape?",
                        "What is the colour of the shape on the far left?"),
    "colour_rightmost": ("What colour is the rightmost shape?", "What colour is the last shape?",
                         "What is the colour of the shape on the far right?"),
    "colour_absent": PARAPHRASES["colour"],
    "is_colour": ("Is the {kind} {colour}?", "Is that {kind} {colour}?"),
    "shape_of_colour": ("Which shape is {colour}?", "What is the {colour} shape?",
                        "What shape is {colour}?", "What is {colour}?"),
}

SPELLINGS = (
    ("colour", "color"),
    ("picture", "image"),
    ("picture", "photo"),
    ("furthest", "farthest"),
    ("leftmost", "left-most"),
    ("rightmost", "right-most"),
    ("shape", "figure"),
)


def with_article(colour, kind):
    """"a red circle", "an orange star"."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}"


def ask(kind_of_question, rng, colour="", kind="", canonical_share=0.3):
    """One paraphrase, filled in; `rng` is a random.Random."""
    choices = PARAPHRASES.get(kind_of_question) or EXTRA_PARAPHRASES[kind_of_question]
    return filled_in(
        choices[0] if rng.random() < canonical_share else rng.choice(choices), colour, kind
    )


def ask_freely(kind_of_question, rng, colour="", kind=""):
    """As `ask`, now and then in one of the further paraphrases."""
    if kind_of_question in MORE_PARAPHRASES and rng.random() < MORE_SHARE:
        return filled_in(rng.choice(MORE_PARAPHRASES[kind_of_question]), colour, kind)
    return ask(kind_of_question, rng, colour, kind)


def filled_in(text, colour, kind):
    """A paraphrase with its colour, kind and article."""
    text = text.replace(" a {colour}", " {a} {colour}")
    return text.format(a="an" if colour[:1] == "o" else "a", colour=colour, kind=kind)


def answer_describe(shapes):
    """The whole picture, e.g. "From left to right: a red circle, a blue square."."""
    return "From left to right: " + ", ".join(with_article(*shape) for shape in shapes) + "."


def answer_shape(shape):
    """One shape as a sentence, e.g. "An orange star."."""
    sentence = with_article(*shape) + "."
    return sentence[0].upper() + sentence[1:]


def answer_colour(shapes, kind):
    """The colour of the only shape of that kind, e.g. "Red."."""
    return next(colour for colour, other in shapes if other == kind).capitalize() + "."


def answer_compare(n_first, n_second):
    """Which picture has more shapes."""
    if n_first == n_second:
        return "Neither."
    return "The first." if n_first > n_second else "The second."


def kinds_occurring_once(shapes):
    """The kinds whose colour may be asked."""
    kinds = [kind for _, kind in shapes]
    return [kind for kind in KINDS if kinds.count(kind) == 1]


def shapes_question(name, shapes, rng, ask=ask):
    """(question, answer) of one kind about a picture of shapes; None if it cannot be asked."""
    if name == "describe":
        return ask(name, rng), answer_describe(shapes)
    if name == "count":
        return ask(name, rng), str(len(shapes))
    if name == "colour":
        kinds = kinds_occurring_once(shapes)
        if not kinds:
            return None
        kind = rng.choice(kinds)
        return ask(name, rng, kind=kind), answer_colour(shapes, kind)
    if name == "exists":
        colour, kind = pick_asked_shape(shapes, rng)
        return ask(name, rng, colour, kind), "Yes." if (colour, kind) in shapes else "No."
    if name == "leftmost":
        return ask(name, rng), answer_shape(shapes[0])
    return ask("rightmost", rng), answer_shape(shapes[-1])


def extra_question(name, shapes, rng):
    """(question, answer) of one of the extra kinds; None if it cannot be asked."""
    colour, kind = pick_asked_shape(shapes, rng)
    colours, kinds = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
    once = colours.count(colour) == 1
    if (name == "colour_absent" and kind in kinds) or (name == "shape_of_colour" and not once):
        return None
    if name == "is_colour" and kinds.count(kind) != 1:
        return None
    answer = {
        "exists_kind": "Yes." if kind in kinds else "No.",
        "exists_colour": "Yes." if colour in colours else "No.",
        "count_kind": str(kinds.count(kind)),
        "count_colour": str(colours.count(colour)),
        "colour_leftmost": colours[0].capitalize() + ".",
        "colour_rightmost": colours[-1].capitalize() + ".",
        "colour_absent": f"There is no {kind}.",
        "is_colour": "Yes." if (colour, kind) in shapes else "No.",
        "shape_of_colour": answer_shape(shapes[colours.index(colour)]) if once else "",
    }[name]
    return ask(name, rng, colour, kind), answer


def pick_asked_shape(shapes, rng):
    """Half of the time a shape that is there; else one near to what is there, or any."""
    if rng.random() < 0.5:
        return rng.choice(shapes)
    for _ in range(20):
        colour, kind = rng.choice(COLOURS), rng.choice(KINDS)
        nearness = rng.random()
        if nearness < 0.3:
            colour = rng.choice(shapes)[0]
        elif nearness < 0.6:
            kind = rng.choice(shapes)[1]
        elif nearness < 0.8:
            colour, kind = rng.choice(shapes)[0], rng.choice(shapes)[1]
        if (colour, kind) not in shapes:
            break
    return colour, kind


def roughen(text, rng):
    """The same question as people type it: other spelling, case, punctuation, politeness."""
    if rng.random() < 0.3:
        old, new = rng.choice(SPELLINGS)
        text = text.replace(old, new)
    if rng.random() < 0.15:
        text = rng.choice(("Please: ", "Hey, ", "Tell me, ", "Hi! ", "OK. ")) + text
    if rng.random() < 0.25:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.2:
        text = text.rstrip("?.!")
    if rng.random() < 0.05:
        text = text + rng.choice((" ", "\n", " Please answer briefly.", " Thank you.", "!", "??"))
    if rng.random() < 0.04:
        text = rng.choice((" ", "\n")) + text
    return text
