"""Entities in a text longer than the model reads: `python examples/entities.py [MODEL] [FILE]`.

MODEL is a folder or hub id of a token-classification checkpoint; without one, examples/fine_tuning.py trains a small
tagger of people and places first, which takes seconds.
"""

import sys
from pathlib import Path

from minitrans import EntityRecognizer

if len(sys.argv) > 1:
    recognizer = EntityRecognizer.from_pretrained(sys.argv[1])
else:
    from fine_tuning import train

    recognizer = EntityRecognizer(*train(), max_tokens=64)  # so short that the text below takes several chunks

STORY = (
    "Nora had a letter from Prague. It was raining, and the post was late again. The next day she went to the market, "
    "bought bread, cheese and a newspaper, and walked home along the river. At noon Henry came from Dublin by train. "
    "He had slept badly, and he was hungry. They ate, talked about the weather and about books, and in the evening "
    "they went to a concert with Louise, who lives in Athens and was in town for a week."
)
text = Path(sys.argv[2]).read_text(encoding="utf-8") if len(sys.argv) > 2 else STORY

tokens = len(recognizer.tokenizer(text, verbose=False)["input_ids"])
print(f"{tokens} tokens, {recognizer.max_tokens} at a time, with a quarter of overlap")
for entity in recognizer(text, aggregation_strategy="first"):
    print(f"{entity['start']:6} {entity['end']:6}  {entity['label']:8} {entity['score']:.2f}  {entity['text']}")
