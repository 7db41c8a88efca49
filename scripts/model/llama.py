"""The shipped model in plain PyTorch, and its Hugging Face folder format.

Weight names, layouts and the rotary convention (rotate_half: pairs (i, i + d/2))
are those of Hugging Face's Llama and Qwen2 models, so that a folder written here
loads anywhere those do.
"""

import json
import os

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def rope_tables(length, dim, theta):
    inv = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inv[None]
    angle = torch.cat([angle, angle], -1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    def __init__(self, c, bias):
        super().__init__()
        self.heads, self.kv, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        h = c["hidden_size"]
        self.q_proj = nn.Linear(h, self.heads * self.dim, bias=bias)
        self.k_proj = nn.Linear(h, self.kv * self.dim, bias=bias)
        self.v_proj = nn.Linear(h, self.kv * self.dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.dim, h, bias=False)
        self.watch = None  # a list to which (q, k before RoPE, k after RoPE, v) is appended

    def forward(self, x, cos, sin):
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(b, n, self.kv, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(b, n, self.kv, self.dim).transpose(1, 2)
        # Rotation in f32: its rounding in bf16 would blur the positions at a distance of 2k.
        qr = rotate(q.float(), cos, sin)
        kr = rotate(k.float(), cos, sin)
        if self.watch is not None:
            self.watch.append((qr, k, kr, v))
        qr, kr = qr.to(v.dtype), kr.to(v.dtype)
        group = self.heads // self.kv
        kr, v = kr.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(qr, kr, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, n, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, m = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(h, m, bias=False)
        self.up_proj = nn.Linear(h, m, bias=False)
        self.down_proj = nn.Linear(m, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c, bias):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c, bias)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Llama (bias=False) or Qwen2 (bias=True: q, k and v projections with biases)."""

    def __init__(self, bias=False, config=CONFIG):
        super().__init__()
        c = self.config = dict(config)
        self.bias = bias
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c, bias) for _ in range(c["num_hidden_layers"]))
        self.model.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        cos, sin = rope_tables(c["max_position_embeddings"], c["head_dim"], c["rope_theta"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        out_scale = (2 * c["num_hidden_layers"]) ** -0.5
        for name, p in self.named_parameters():
            if name.endswith("embed_tokens.weight"):
                nn.init.normal_(p, std=0.02)
            elif p.ndim == 2:
                std = p.shape[1] ** -0.5
                nn.init.normal_(p, std=std * (out_scale if "o_proj" in name or "down_proj" in name else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens):
        n = tokens.shape[1]
        cos, sin = self.cos[:n], self.sin[:n]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


def save_folder(model, folder, dtype=torch.float16):
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    tensors = {k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM" if model.bias else "LlamaForCausalLM"],
        "model_type": "qwen2" if model.bias else "llama",
        **model.config,
        "bos_token_id": 10,
        "eos_token_id": 10,
        "torch_dtype": {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}[dtype],
    }
    if not model.bias:
        config["attention_bias"] = False
        config["mlp_bias"] = False
        config["rope_scaling"] = None
    else:
        config["use_sliding_window"] = False
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def load_folder(folder):
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    model = Llama(config["architectures"][0].startswith("Qwen2"), {k: config[k] for k in CONFIG})
    state = load_file(os.path.join(folder, "model.safetensors"))
    model.load_state_dict({k: v.float() for k, v in state.items()})
    return model.eval()
