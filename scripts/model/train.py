#!/usr/bin/env python3
"""Trains the shipped model from scratch on text made by generate.py.

  train.py --out DIR             the Llama folder, with the curriculum below
  train.py --bias --init CKPT --out DIR            the Qwen2 folder, from bias_variant.py's file
  train.py --out DIR --init CKPT --stages 5,6      continue with chosen stages

Loss is cross entropy in which the bytes that can be known for certain (answers)
weigh 8, and bytes that are random by construction weigh 0.1: their gradient is
mostly noise. The curriculum grows the document length, because looking up a key
among five facts is learned far sooner than among forty, and because short
documents are cheap; the lookup then carries over to longer documents.
"""

import argparse
import math
import os
import random
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import generate
from llama import Llama, save_folder

# Length, documents per step, most steps, learning-rate factor at start and end, share
# of warm-up repeats, share of documents with far questions, item mix. A stage whose
# rate does not fall ends early once EARLY of the answer bytes are right: what it still
# has to teach, the next one teaches too.
EARLY = 0.94
STAGES = [
    (128, 64, 1000, 1.0, 1.0, 0.4, 0.0, generate.Mix(0.10, 0.45, 0.45)),
    (256, 32, 500, 0.35, 0.35, 0.1, 0.0, generate.Mix(0.20, 0.40, 0.40)),
    (512, 16, 200, 0.35, 0.35, 0.0, 0.0, generate.Mix(0.30, 0.35, 0.35)),
    (1024, 8, 150, 0.35, 0.35, 0.0, 0.0, generate.Mix(0.40, 0.32, 0.28)),
    (2304, 4, 200, 0.35, 0.35, 0.0, 0.0, generate.Mix()),
    (2304, 4, 150, 0.35, 0.35, 0.0, 0.0, generate.Mix(0.25, 0.35, 0.40)),
    (2304, 4, 350, 0.35, 0.0, 0.0, 0.6, generate.Mix(0.45, 0.28, 0.27)),
    (2304, 4, 350, 0.25, 0.0, 0.0, 0.6, generate.Mix(0.45, 0.30, 0.25)),
    (2304, 4, 120, 0.10, 0.0, 0.0, 0.6, generate.Mix(0.45, 0.28, 0.27)),  # only for --bias
]

WEIGHTS = [0.0] * 5
WEIGHTS[generate.FILLER] = 1.0
WEIGHTS[generate.SYNTAX] = 1.0
WEIGHTS[generate.FRESH] = 0.1
WEIGHTS[generate.QKEY] = 0.1
WEIGHTS[generate.ANSWER] = 8.0


def make_batch(rng, length, count, repeats, far, mix):
    tokens = np.empty((count, length + 1), np.int64)
    classes = np.empty((count, length + 1), np.int64)
    for i in range(count):
        if rng.random() < repeats:
            doc = generate.make_repeats(rng, length + 1)
        else:
            split = rng.uniform(0.25, 0.65) if rng.random() < far else None
            doc = generate.make_document(rng, length + 1, mix, split=split)
        tokens[i] = np.frombuffer(doc.bytes(), np.uint8)[: length + 1]
        classes[i] = doc.classes[: length + 1]
    return torch.from_numpy(tokens), torch.from_numpy(classes)


class Muon:
    """Momentum whose update is orthogonalised, for the weight matrices.

    On a model this small it needs about half of AdamW's steps. Matrices of one
    shape are stacked so that the Newton-Schulz products are few and large.
    """

    def __init__(self, params, lr=0.02, momentum=0.95, decay=0.01):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        shapes = {}
        for p in params:
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.groups = [(ps, [torch.zeros_like(p) for p in ps]) for ps in shapes.values()]

    @torch.no_grad()
    def step(self, scale):
        for params, bufs in self.groups:
            updates = []
            for p, buf in zip(params, bufs):
                buf.lerp_(p.grad, 1 - self.momentum)
                updates.append(p.grad.lerp(buf, self.momentum))
            g = torch.stack(updates).bfloat16()
            tall = g.shape[1] > g.shape[2]
            if tall:
                g = g.mT
            g = g / (g.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
            for _ in range(5):
                a = g @ g.mT
                g = 3.4445 * g + (-4.7750 * a + 2.0315 * (a @ a)) @ g
            if tall:
                g = g.mT
            lr = self.lr * scale * max(1.0, g.shape[1] / g.shape[2]) ** 0.5
            for p, u in zip(params, g):
                p.mul_(1 - self.lr * scale * self.decay).add_(u.float(), alpha=-lr)


@torch.no_grad()
def validate(forward, length, docs, seed=99, edges=(0, 128, 256, 512, 1024, 1536, 2304)):
    """Whole-answer recall by distance, and filler loss against its floor (bits per byte).

    The answer is fed as given while it is scored. That equals greedy decoding:
    an answer counts only if every byte of it is the most likely one after a
    correct prefix, which is when greedy decoding writes exactly this answer.
    """
    rng = random.Random(seed)
    hits, total = [0] * len(edges), [0] * len(edges)
    loss = size = floor = floor_size = 0.0
    batch = 6
    for _ in range(docs // batch):
        made = [generate.make_document(rng, length + 1, generate.Mix()) for _ in range(batch)]
        tokens = torch.tensor(np.stack([np.frombuffer(d.bytes(), np.uint8)[: length + 1] for d in made]).astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(tokens[:, :-1]).float()
        right = logits.argmax(-1) == tokens[:, 1:]
        nll = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        for i, d in enumerate(made):
            filler = torch.tensor(d.classes[1 : length + 1]) == generate.FILLER
            loss += nll[i][filler].sum().item() / math.log(2)
            size += filler.sum().item()
            floor += d.filler_bits
            floor_size += d.filler_bytes
            for pos, distance in d.questions:
                if pos + generate.VALUE_DIGITS <= length:
                    b = max(j for j, e in enumerate(edges) if distance >= e)
                    total[b] += 1
                    hits[b] += bool(right[i, pos - 1 : pos - 1 + generate.VALUE_DIGITS].all())
    recall = {f">={e}": f"{h / t:.3f}({t})" for e, h, t in zip(edges, hits, total) if t}
    return recall, loss / size, floor / floor_size


def average_gradients(params):
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, g in zip(params, flat.split([p.numel() for p in params])):
        p.grad.copy_(g.view_as(p))


def work(rank, args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=args.workers)
    rng = random.Random(1000 * args.seed + rank)
    model = Llama(bias=args.bias)
    if args.init:
        model.load_state_dict(torch.load(args.init), strict=False)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, args.muon_lr)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    weights = torch.tensor(WEIGHTS)
    log = open(os.path.join(args.out, "train.log"), "a")

    def say(text):
        if rank:
            return
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    seen, begin, done, compiled_for = 0, time.time(), 0, None
    chosen = [int(s) for s in args.stages.split(",")] if args.stages else (
        [len(STAGES) - 1] if args.bias else range(len(STAGES) - 1))
    for number in chosen:
        length, count, steps, lr0, lr1, repeats, far, mix = STAGES[number]
        steps = args.steps or steps
        if length != compiled_for:
            torch._dynamo.reset()
            forward = model if args.no_compile else torch.compile(model, dynamic=False)
            compiled_for = length
        recent = []
        for step in range(steps):
            tokens, classes = make_batch(rng, length, count // args.workers, repeats, far, mix)
            target, kind = tokens[:, 1:], classes[:, 1:]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = forward(tokens[:, :-1])
            w = weights[kind]
            nll = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
            loss = (nll * w).sum() / w.sum()
            loss.backward()
            average_gradients(others + matrices)
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            scale = lr0 + (lr1 - lr0) * step / steps
            scale *= min(1.0, (done + 1) / 15)  # warm up once, after a fresh start of the moments
            for group in adam.param_groups:
                group["lr"] = args.adam_lr * scale
            adam.step()
            muon.step(scale)
            model.zero_grad(set_to_none=True)
            seen += tokens.numel() * args.workers
            done += 1
            answer, filler = kind == generate.ANSWER, kind == generate.FILLER
            share = (logits.argmax(-1) == target)[answer].float().mean()
            dist.all_reduce(share)  # every worker must take the same decision to end a stage
            recent = recent[-49:] + [share.item() / args.workers]
            right = sum(recent) / len(recent)
            if (step + 1) % 25 == 0:
                bits = nll[filler].mean().item() / math.log(2)
                say(f"stage {number} step {step + 1} {time.time() - begin:.0f}s {seen / 1e6:.2f}M loss {loss.item():.3f}"
                    f" answer bytes {right:.3f} filler {bits:.3f}")
            last = step + 1 == steps or (lr1 >= lr0 and step >= 50 and right > EARLY)
            if rank == 0 and ((step + 1) % 50 == 0 or last):
                torch.save(model.state_dict(), os.path.join(args.out, f"stage{number}.pt"))
            if rank == 0 and ((step + 1) % 250 == 0 or last):
                recall, bits, floor = validate(model, max(length, 1024), 24)
                say(f"  validation at {max(length, 1024)}: recall {recall} filler {bits:.4f} (floor {floor:.4f})")
            if last:
                break
    if rank == 0:
        save_folder(model, args.out)
    dist.destroy_process_group()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--out", required=True, help="folder for checkpoints and the exported model")
    ap.add_argument("--init", help="checkpoint to start from")
    ap.add_argument("--bias", action="store_true", help="Qwen2: biases on q, k, v (start from bias_variant.py)")
    ap.add_argument("--stages", help="comma-separated stage numbers (default: all)")
    ap.add_argument("--steps", type=int, help="most steps per stage, instead of the listed ones")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--workers", type=int, default=2, help="processes of one thread each; each takes its share of a batch")
    ap.add_argument("--muon-lr", type=float, default=0.02)
    ap.add_argument("--adam-lr", type=float, default=3e-3)
    ap.add_argument("--no-compile", action="store_true", help="skip torch.compile")
    args = ap.parse_args()
    os.makedirs(args.out, exist_ok=True)
    # One thread per process and one exchange per step: on a machine that is also doing
    # other work this loses far less than threads that wait for each other in every operation.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(20000 + os.getpid() % 20000), OMP_NUM_THREADS="1")
    torch.multiprocessing.spawn(work, (args,), args.workers)


if __name__ == "__main__":
    main()
