"""CLIP's text encoder in Hugging Face's and in OpenCLIP's layout, from its description."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def attend(q, k, v, heads):
    d, n = q.shape[-1] // heads, q.shape[1]
    future = torch.full((n, n), -math.inf).triu(1)
    parts = [
        torch.softmax(
            q[..., i * d : (i + 1) * d] @ k[..., i * d : (i + 1) * d].transpose(1, 2) / math.sqrt(d)
            + future,
            -1,
        )
        @ v[..., i * d : (i + 1) * d]
        for i in range(heads)
    ]
    return torch.cat(parts, -1)


class HuggingFace(nn.Module):
    """quick_gelu, or gelu when told so; every layer is used (diffusers' Stable Diffusion 2 stores one layer less)."""

    def __init__(self, layers, width, gelu=False):
        super().__init__()
        self.heads, self.gelu = width // 64, gelu
        text = nn.Module()
        text.embeddings, text.encoder = nn.Module(), nn.Module()
        text.embeddings.token_embedding, text.embeddings.position_embedding = (
            nn.Embedding(49408, width),
            nn.Embedding(77, width),
        )
        text.embeddings.register_buffer("position_ids", torch.arange(77)[None])
        text.encoder.layers = nn.ModuleList()
        for _ in range(layers):
            layer = nn.Module()
            layer.self_attn, layer.mlp = nn.Module(), nn.Module()
            for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
                setattr(layer.self_attn, name, nn.Linear(width, width))
            layer.layer_norm1, layer.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            text.encoder.layers.append(layer)
        text.final_layer_norm = nn.LayerNorm(width)
        self.text_model = text

    def forward(self, tokens):
        text = self.text_model
        x = text.embeddings.token_embedding(tokens) + text.embeddings.position_embedding(
            text.embeddings.position_ids
        )
        for layer in text.encoder.layers:
            h, a = layer.layer_norm1(x), layer.self_attn
            x = x + a.out_proj(attend(a.q_proj(h), a.k_proj(h), a.v_proj(h), self.heads))
            h = layer.mlp.fc1(layer.layer_norm2(x))
            x = x + layer.mlp.fc2(F.gelu(h) if self.gelu else h / (1 + torch.exp(-1.702 * h)))
        return text.final_layer_norm(x)


class OpenCLIP(nn.Module):
    """gelu; Stable Diffusion 2 leaves out the last layer."""

    def __init__(self, layers, width):
        super().__init__()
        self.heads, self.token_embedding = width // 64, nn.Embedding(49408, width)
        self.positional_embedding, self.text_projection = (
            nn.Parameter(torch.zeros(77, width)),
            nn.Parameter(torch.zeros(width, width)),
        )
        self.logit_scale, self.ln_final, self.transformer = (
            nn.Parameter(torch.ones([])),
            nn.LayerNorm(width),
            nn.Module(),
        )
        self.transformer.resblocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.ln_1, block.ln_2, block.attn, block.mlp = (
                nn.LayerNorm(width),
                nn.LayerNorm(width),
                nn.Module(),
                nn.Module(),
            )
            block.attn.in_proj_weight, block.attn.in_proj_bias = (
                nn.Parameter(torch.zeros(3 * width, width)),
                nn.Parameter(torch.zeros(3 * width)),
            )
            block.attn.out_proj = nn.Linear(width, width)
            block.mlp.c_fc, block.mlp.c_proj = (
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            )
            self.transformer.resblocks.append(block)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in list(self.transformer.resblocks)[:-1]:
            q, k, v = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(
                3, -1
            )
            x = x + block.attn.out_proj(attend(q, k, v, self.heads))
            x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
        return self.ln_final(x)
