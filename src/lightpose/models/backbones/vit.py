"""Plain ViT as pose estimation uses it."""

from collections.abc import Sequence
from pathlib import Path

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone, create_timm
from lightpose.models.weights import fit_weights, load_weights

PATCH = 16


class ViT(TimmBackbone):
    """ViT backbone of ViTPose (arXiv:2204.12484): timm's transformer, without class token, at any input size.

    Maps have stride 16 and pass the last LayerNorm. Differs from `TimmBackbone` with the same model in having no class
    token and in padding the image before it is cut into patches, as the published pose weights expect. Weights with a
    class token, another patch size or another input size fit as well.

    Args:
        model: timm's name of a plain ViT, e.g. ``vit_base_patch16_224.mae``.
        input_hw: input size; both divide by 16.
        pretrained: start from timm's weights of that name. They are downloaded once.
        weights: start from this file instead, in timm's naming.
        out_indices: which blocks' maps to give; negative ones count from the end. None gives the last.
        num_heads: attention heads; None leaves the model's own. Weights fit only the number they were trained with.
        drop_path_rate: stochastic depth of the last block (arXiv:1603.09382), rising from 0 at the first.
        patch_padding: zeros around the image.
        checkpointing: keep only what enters each block, and compute its activations again in the backward pass, with
            the same random numbers. For a batch of 64 images of 256×192 in bfloat16, ViT-L keeps 1.3 GB rather than
            11 GB, ViT-H 2.2 GB rather than 18 GB, and a step takes about a third more work.

    Raises:
        UserError: for an unknown model, a size that doesn't divide, or weights that can't be had or don't fit.
    """

    def __init__(
        self,
        model: str,
        input_hw: Sequence[int],
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        out_indices: Sequence[int] | None = (-1,),
        num_heads: int | None = None,
        drop_path_rate: float = 0.0,
        patch_padding: int = 2,
        checkpointing: bool = False,
    ) -> None:
        if any(side % PATCH for side in input_hw):
            raise UserError(f"input_hw={list(input_hw)} must divide by the ViT's patch of {PATCH}; round it")
        super().__init__(
            model,
            out_indices=out_indices,
            input_hw=input_hw,
            drop_path_rate=drop_path_rate,
            model_args={"class_token": False, "global_pool": "", "patch_size": PATCH, "num_heads": num_heads},
        )
        self.model.patch_embed.proj.padding = (patch_padding, patch_padding)
        self.model.set_grad_checkpointing(checkpointing)
        if weights is not None:
            load_weights(self.model, weights)
        elif pretrained:
            source = create_timm(model, pretrained=True)
            heads = [vit.blocks[0].attn.num_heads for vit in (source, self.model)]
            if heads[0] != heads[1]:
                raise UserError(
                    f"the weights of {model} need {heads[0]} attention heads, but the model has {heads[1]}; "
                    "set backbone.num_heads=null"
                )
            fit_weights(self.model, source.state_dict(), f"timm's {model}")
