"""Seconds of one demo render in PyTorch on the CPU: the figure the Rust network is measured against.

  pip install torch safetensors numpy pillow
  python benches/baselines/torch_demo.py [--threads 2 --runs 5 --steps 20 --guidance 1.5]

One image of 96 x 144 from models/demo, in f32, as `demo-tryon` renders it at balanced quality; the best
of the runs is printed, since everything else on the machine can only add to it.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
sys.path.insert(0, str(DEMO))

from network import load, sample, to_bytes  # noqa: E402

arguments = argparse.ArgumentParser()
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--runs", type=int, default=5)
arguments.add_argument("--steps", type=int, default=20)
arguments.add_argument("--guidance", type=float, default=1.5)
a = arguments.parse_args()

torch.set_num_threads(a.threads)
model = load(DEMO / "demo.safetensors")
height, width = model.shape


def picture(name):
    image = Image.open(DEMO / "samples" / name).convert("RGB").resize((width, height), Image.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


nobody = torch.full((1, 1, height, width), -1.0)
conditions = dict(ca_images=picture("person-2.png"), garment_images=picture("garment-striped-longsleeve.png"),
                  person_poses=nobody, garment_poses=nobody, garment_categories=torch.tensor([1]))
seconds = []
for run in range(a.runs):
    noise = torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(run))
    began = time.perf_counter()
    to_bytes(sample(model, noise, conditions, a.steps, a.guidance))
    seconds.append(time.perf_counter() - began)
print(f"{min(seconds):.3f}")
