"""YOLOX-l (640 x 640) and DWPose's RTMPose-l (288 x 384) with random weights: exports them and times ONNX Runtime.

    python benches/baselines/onnx_person.py FOLDER [--threads 2]

writes yolox_l.onnx and dw-ll_ucoco_384.onnx into FOLDER, in the shapes of the published files, and prints the seconds
of one pass of each. `cargo run --release -p kraftr-models --example time_person FOLDER` times them here. With `--tiny`
the networks have a few channels and the same inputs and outputs, and FOLDER/outputs.safetensors gets every 101st value
that they answer: so were the files of models/tests/fixtures/onnx made.

Architectures: arxiv.org/abs/2107.08430 (YOLOX) and arxiv.org/abs/2303.07399 (RTMPose: CSPNeXt, SimCC, one gated
attention unit); needs torch, onnx, onnxruntime and safetensors.
"""

import argparse
import pathlib
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, into, out, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width, shortcut, deep):
        super().__init__()
        self.first = Conv(width, width, 3 if deep else 1)
        self.second = nn.Sequential(Conv(width, width, 5, groups=width), Conv(width, width)) if deep else Conv(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x):
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class Csp(nn.Module):
    """Cross stage partial: half the channels pass the blocks; CSPNeXt weighs the channels of both halves after."""

    def __init__(self, into, out, blocks, shortcut=True, next_=False):
        super().__init__()
        half = out // 2
        self.short, self.main = Conv(into, half), Conv(into, half)
        self.blocks = nn.Sequential(*[Bottleneck(half, shortcut, next_) for _ in range(blocks)])
        self.attention = nn.Conv2d(2 * half, 2 * half, 1) if next_ else None
        self.final = Conv(2 * half, out)

    def forward(self, x):
        y = torch.cat([self.blocks(self.main(x)), self.short(x)], 1)
        if self.attention is not None:
            y = y * F.hardsigmoid(self.attention(F.adaptive_avg_pool2d(y, 1)))
        return self.final(y)


class Spp(nn.Module):
    """The largest value of squares of several sizes."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = Conv(width, width // 2), Conv(width // 2 * 4, width)

    def forward(self, x):
        x = self.first(x)
        return self.last(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))


class Yolox(nn.Module):
    """`[1, 3, 640, 640]` to `[1, 8400, 85]`."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        w = [width * n for n in (1, 2, 4, 8, 16)]
        self.focus = Conv(12, w[0], 3)
        self.dark2 = nn.Sequential(Conv(w[0], w[1], 3, 2), Csp(w[1], w[1], depth))
        self.dark3 = nn.Sequential(Conv(w[1], w[2], 3, 2), Csp(w[2], w[2], 3 * depth))
        self.dark4 = nn.Sequential(Conv(w[2], w[3], 3, 2), Csp(w[3], w[3], 3 * depth))
        self.dark5 = nn.Sequential(Conv(w[3], w[4], 3, 2), Spp(w[4]), Csp(w[4], w[4], depth, False))
        self.lateral, self.reduce = Conv(w[4], w[3]), Conv(w[3], w[2])
        self.up4, self.up3 = Csp(w[4], w[3], depth, False), Csp(w[3], w[2], depth, False)
        self.down3, self.down4 = Conv(w[2], w[2], 3, 2), Conv(w[3], w[3], 3, 2)
        self.out4, self.out5 = Csp(w[3], w[3], depth, False), Csp(w[4], w[4], depth, False)
        head = 4 * width
        self.stems = nn.ModuleList([Conv(n, head) for n in w[2:]])
        towers = lambda: nn.ModuleList([nn.Sequential(Conv(head, head, 3), Conv(head, head, 3)) for _ in range(3)])
        self.class_towers, self.box_towers = towers(), towers()
        self.classes = nn.ModuleList([nn.Conv2d(head, 80, 1) for _ in range(3)])
        self.boxes = nn.ModuleList([nn.Conv2d(head, 4, 1) for _ in range(3)])
        self.objects = nn.ModuleList([nn.Conv2d(head, 1, 1) for _ in range(3)])

    def forward(self, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        c3 = self.dark3(self.dark2(self.focus(x)))
        c4 = self.dark4(c3)
        p5 = self.lateral(self.dark5(c4))
        p4 = self.reduce(self.up4(torch.cat([F.interpolate(p5, scale_factor=2.0), c4], 1)))
        n3 = self.up3(torch.cat([F.interpolate(p4, scale_factor=2.0), c3], 1))
        n4 = self.out4(torch.cat([self.down3(n3), p4], 1))
        n5 = self.out5(torch.cat([self.down4(n4), p5], 1))
        rows = []
        for n, level in enumerate((n3, n4, n5)):
            y = self.stems[n](level)
            box, classes = self.box_towers[n](y), self.classes[n](self.class_towers[n](y)).sigmoid()
            rows.append(torch.cat([self.boxes[n](box), self.objects[n](box).sigmoid(), classes], 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)


class ScaleNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.g = width**-0.5, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x / (torch.linalg.norm(x, dim=-1, keepdim=True) * self.scale).clamp(min=1e-5) * self.g


class Gau(nn.Module):
    """A gated attention unit over the points."""

    def __init__(self, width, key=128):
        super().__init__()
        self.e, self.s = 2 * width, key
        self.norm = ScaleNorm(width)
        self.uv, self.o = nn.Linear(width, 2 * self.e + key, bias=False), nn.Linear(self.e, width, bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, key)), nn.Parameter(torch.rand(2, key))
        self.res = nn.Parameter(torch.ones(width))

    def forward(self, x):
        u, v, base = F.silu(self.uv(self.norm(x))).split([self.e, self.e, self.s], -1)
        q, k = (base.unsqueeze(2) * self.gamma + self.beta).unbind(2)
        kernel = F.relu(q @ k.transpose(1, 2) / self.s**0.5).square()
        return x * self.res + self.o(u * (kernel @ v))


class RtmPose(nn.Module):
    """`[1, 3, 384, 288]` to `[1, 133, 576]` and `[1, 133, 768]`."""

    def __init__(self, width=64, depth=3, hidden=256):
        super().__init__()
        w = [width * n for n in (1, 2, 4, 8, 16)]
        half = width // 2
        self.stem = nn.Sequential(Conv(3, half, 3, 2), Conv(half, half, 3), Conv(half, w[0], 3))
        stage = lambda n, blocks: nn.Sequential(Conv(w[n], w[n + 1], 3, 2), Csp(w[n + 1], w[n + 1], blocks, True, True))
        self.stages = nn.Sequential(stage(0, depth), stage(1, 2 * depth), stage(2, 2 * depth))
        self.last = nn.Sequential(Conv(w[3], w[4], 3, 2), Spp(w[4]), Csp(w[4], w[4], depth, False, True))
        self.final = nn.Conv2d(w[4], 133, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(108), nn.Linear(108, hidden, bias=False))
        self.gau = Gau(hidden, min(hidden, 128))
        self.x, self.y = nn.Linear(hidden, 576, bias=False), nn.Linear(hidden, 768, bias=False)

    def forward(self, x):
        x = self.gau(self.mlp(self.final(self.last(self.stages(self.stem(x)))).flatten(2)))
        return self.x(x), self.y(x)


def wave(height, width):
    """The same numbers as the Rust side."""
    n = torch.arange(3 * height * width)
    return ((n % 1013) / 1013 - 0.5).mul(2).reshape(1, 3, height, width)


def networks(tiny=False):
    """Name, network, input and outputs of both; every number random from a fixed seed."""
    torch.manual_seed(5)
    yolox, pose = (Yolox(2, 1), RtmPose(2, 1, 8)) if tiny else (Yolox(), RtmPose())
    for network in (yolox, pose):
        network.eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.uniform_(module.running_var, 0.1, 0.3)
                nn.init.uniform_(module.bias, -0.1, 0.1)
    return [
        ("yolox_l.onnx", yolox, wave(640, 640), ["output"]),
        ("dw-ll_ucoco_384.onnx", pose, wave(384, 288), ["simcc_x", "simcc_y"]),
    ]


def export(folder, tiny=False):
    for name, network, x, outputs in networks(tiny):
        torch.onnx.export(
            network, (x,), str(folder / name), input_names=["input"], output_names=outputs, opset_version=17, dynamo=False
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    export(args.folder, args.tiny)

    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    recorded = {}
    for name, _, x, _ in networks(args.tiny):
        began = time.perf_counter()
        session = ort.InferenceSession(str(args.folder / name), options, providers=["CPUExecutionProvider"])
        loaded = time.perf_counter() - began
        times, x = [], x.numpy()
        for _ in range(args.runs + 1):
            began = time.perf_counter()
            outputs = session.run(None, {session.get_inputs()[0].name: x})
            times.append(time.perf_counter() - began)
        took = statistics.median(times[1:])
        total = float(abs(outputs[0]).sum())
        for output, values in zip(session.get_outputs(), outputs):
            recorded[output.name] = values.reshape(-1)[::101].copy()
        print(f"{name}: onnxruntime {ort.__version__}, load {loaded:.2f} s, pass {took:.3f} s, checksum {total:.4f}")
    if args.tiny:
        from safetensors.numpy import save_file

        save_file(recorded, str(args.folder / "outputs.safetensors"))


if __name__ == "__main__":
    main()
