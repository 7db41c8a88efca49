#!/usr/bin/env python3
"""Deterministic text generator with a known entropy floor.

A document is "\n" followed by items, each closed by "." and a space:

  filler    "kola mirune sapu."  a sentence from a fixed first-order word chain
  fact      "QXM=7312."          a random key and random digits, key new to the document
  question  "QXM?7312."          an earlier fact of the same document, answered

The filler tells perplexity, the questions tell recall over distance, and the
two can be told apart because every byte carries a class. All probabilities
are fixed, so the least possible loss of each class is known exactly: a model's
excess over it is the model's own error, not the text's randomness.

Run as a script to print the floor and a sample:  generate.py --seed 1 --length 400
"""

import argparse
import bisect
import math
import random
import string

# Byte classes. The choice of the next item's kind is counted with the item it
# introduces, so a filler sentence carries -log2(chance of filler) bits of it.
FILLER, FRESH, QKEY, ANSWER, SYNTAX = range(5)
CLASS_NAMES = ["filler", "fresh fact", "question key", "answer", "syntax"]

WORDS = 400
SUCCESSORS = [0.40, 0.25, 0.15, 0.10, 0.06, 0.04]
STARTERS = 16
STOP = 0.2  # chance that a sentence ends after a word
KEY_LETTERS = 3
VALUE_DIGITS = 4
LANGUAGE_SEED = 20240607  # the word list and the chain; never varied


class Language:
    """The fixed word list and chain.

    Each successor column is a permutation of the words, so every word is as
    likely as any other in the long run and every row has the same entropy:
    the floor is a closed formula, not an estimate.
    """

    def __init__(self):
        rng = random.Random(LANGUAGE_SEED)
        consonants, vowels = "bdfgklmnprstvz", "aeiou"
        words = set()
        while len(words) < WORDS:
            n = rng.choice([1, 2, 2, 2, 3])
            word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(n))
            words.add(word + rng.choice(["", "", "n", "s", "r"]))
        self.words = sorted(words)
        rng.shuffle(self.words)
        self.next = [[] for _ in range(WORDS)]
        for _ in SUCCESSORS:
            # Draw permutations until no word gets the same successor twice.
            while True:
                perm = list(range(WORDS))
                rng.shuffle(perm)
                clash = [i for i in range(WORDS) if perm[i] in self.next[i]]
                for i in clash:
                    j = rng.randrange(WORDS)
                    perm[i], perm[j] = perm[j], perm[i]
                if all(perm[i] not in self.next[i] for i in range(WORDS)):
                    break
            for i in range(WORDS):
                self.next[i].append(perm[i])
        self.cumulative = []
        total = 0.0
        for p in SUCCESSORS:
            total += p
            self.cumulative.append(total)

    def sentence(self, rng):
        """Returns (text without the final space, exact bits of its word choices)."""
        w = rng.randrange(STARTERS)
        bits = math.log2(STARTERS)
        out = [self.words[w]]
        while rng.random() >= STOP:
            k = min(bisect.bisect(self.cumulative, rng.random()), len(SUCCESSORS) - 1)
            bits += -math.log2(1 - STOP) - math.log2(SUCCESSORS[k])
            w = self.next[w][k]
            out.append(self.words[w])
        return " ".join(out) + ".", bits - math.log2(STOP)

    def expected_floor(self):
        """Expected bits and bytes per sentence (with its final space), in closed form."""
        h_next = -sum(p * math.log2(p) for p in SUCCESSORS)
        h_stop = -(STOP * math.log2(STOP) + (1 - STOP) * math.log2(1 - STOP))
        mean_words = 1 / STOP
        bits = math.log2(STARTERS) + (mean_words - 1) * h_next + mean_words * h_stop
        # Word distribution: the starters pushed through the chain, word by word.
        dist = [1.0 / STARTERS if i < STARTERS else 0.0 for i in range(WORDS)]
        alive, length = 1.0, 0.0
        for _ in range(400):
            length += alive * sum(d * (len(w) + 1) for d, w in zip(dist, self.words))
            alive *= 1 - STOP
            new = [0.0] * WORDS
            for i, d in enumerate(dist):
                for p, j in zip(SUCCESSORS, self.next[i]):
                    new[j] += d * p
            dist = new
        return bits, length + 1  # a separator follows each word; one more space ends the item


LANGUAGE = Language()


class Mix:
    """Chances of the three items. A question is only possible once a fact exists."""

    def __init__(self, filler=0.45, fact=0.30, question=0.25):
        self.filler, self.fact, self.question = filler, fact, question


class Document:
    """The text, a class for each byte, and where the questions are."""

    def __init__(self):
        self.text = ["\n"]
        self.size = 1
        self.classes = [SYNTAX]
        self.facts = []  # (key, value, position of the key)
        self.questions = []  # (position of the first answer byte, distance to last mention)
        self.bits = 0.0  # exact surprise of the whole text (see make_document)
        self.filler_bits = 0.0  # exact surprise of all filler sentences, with their kind choice
        self.filler_bytes = 0

    def add(self, text, classes):
        self.text.append(text)
        self.size += len(text)
        self.classes.extend(classes)

    def bytes(self):
        return "".join(self.text).encode("ascii")


# The first letter also says which kind of item comes. It has the class of other
# predictable bytes, so that a loss weighted by class keeps the kinds' chances right.
FACT_CLASSES = [SYNTAX] + [FRESH] * (KEY_LETTERS - 1) + [SYNTAX] + [FRESH] * VALUE_DIGITS + [SYNTAX] * 2
QUESTION_CLASSES = [SYNTAX] + [QKEY] * (KEY_LETTERS - 1) + [SYNTAX] + [ANSWER] * VALUE_DIGITS + [SYNTAX] * 2


def make_document(rng, length, mix=Mix(), reserve=0.0, split=None):
    """A document of at least `length` bytes (cut it to size).

    reserve: chance that a fact is kept out of the questions, for later asking.

    split: for training on far questions. Before this share of the document, questions
        become facts; after it, facts become questions. The mix then changes on the
        way, so the floor does not hold for such a document.
    doc.bits sums -log2 of the chance of every choice made, so it is the least
    loss, in bits, that any model can expect on the text (with reserve = 0: a
    reserved fact is not marked in the text, which is then a little harder).
    """
    doc = Document()
    known = {}
    askable, unasked = [], []
    alphabet = string.ascii_uppercase
    while doc.size < length:
        u = rng.random()
        if split is not None and u >= mix.filler and rng.random() < 0.9:
            u = mix.filler if doc.size < split * length else 1.0
        if u < mix.filler:
            text, bits = LANGUAGE.sentence(rng)
            doc.add(text + " ", [FILLER] * (len(text) + 1))
            doc.bits += bits - math.log2(mix.filler)
            doc.filler_bits += bits - math.log2(mix.filler)
            doc.filler_bytes += len(text) + 1
        elif u < mix.filler + mix.fact or not askable:
            key = None
            while key is None or key in known:
                key = "".join(rng.choice(alphabet) for _ in range(KEY_LETTERS))
            value = "".join(rng.choice(string.digits) for _ in range(VALUE_DIGITS))
            doc.bits -= math.log2(mix.fact if askable else mix.fact + mix.question)
            doc.bits += math.log2(26**KEY_LETTERS - len(known)) + VALUE_DIGITS * math.log2(10)
            known[key] = [value, doc.size]
            doc.facts.append((key, value, doc.size))
            if rng.random() >= reserve:
                askable.append(key)
                unasked.append(key)
            doc.add(f"{key}={value}. ", FACT_CLASSES)
        else:
            # Half of the questions go to facts not asked yet: else most of
            # them could be answered from a near repetition.
            if unasked and rng.random() < 0.5:
                key = unasked[rng.randrange(len(unasked))]
            else:
                key = askable[rng.randrange(len(askable))]
            p = 1 / len(askable)
            if unasked:
                p = 0.5 * p + (0.5 / len(unasked) if key in unasked else 0.0)
            doc.bits -= math.log2(mix.question * p)
            if key in unasked:
                unasked.remove(key)
            value, last = known[key]
            doc.questions.append((doc.size + KEY_LETTERS + 1, doc.size - last))
            known[key][1] = doc.size
            doc.add(f"{key}?{value}. ", QUESTION_CLASSES)
    return doc


def make_repeats(rng, length):
    """Warm-up text: a few random strings, each written again and again.

    It teaches "find the earlier occurrence and copy what followed" (induction)
    in a few hundred steps; nothing of it is used for evaluation.
    """
    doc = Document()
    symbols = string.ascii_uppercase + string.digits
    pool = []
    while doc.size < length:
        if len(pool) < 2 or rng.random() < 0.4:
            pool.append("".join(rng.choice(symbols) for _ in range(rng.randrange(6, 16))))
            doc.add(pool[-1] + " ", [FRESH] * len(pool[-1]) + [SYNTAX])
        else:
            s = rng.choice(pool)
            doc.add(s + " ", [QKEY] * 3 + [ANSWER] * (len(s) - 3) + [SYNTAX])
    return doc


def floor_table(mix=Mix()):
    """Bits per byte that no model can go below, per class."""
    bits, size = LANGUAGE.expected_floor()
    return {
        "filler": (bits - math.log2(mix.filler)) / size,
        "filler_without_kind_choice": bits / size,
        "filler_bits_per_sentence": bits - math.log2(mix.filler),
        "filler_bytes_per_sentence": size,
        "fact_key_bits_per_letter": math.log2(26),
        "fact_value_bits_per_digit": math.log2(10),
        "answer": 0.0,
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--length", type=int, default=600)
    args = ap.parse_args()
    doc = make_document(random.Random(args.seed), args.length)
    print(doc.bytes()[: args.length].decode())
    for name, value in floor_table().items():
        print(f"{name:30s} {value:.4f}")
    print(f"{'this text, filler':30s} {doc.filler_bits / max(doc.filler_bytes, 1):.4f}")


if __name__ == "__main__":
    main()
