"""Accuracies that the authors of the methods published, and where each stands.

Only figures that were read in the source named with them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTable:
    """Top-1 in percent, as printed.

    Parameters
    ----------
    setting
        Model and data set.
    criterion
        By which channels were kept.
    subject
        The model of `benchmarks.accuracy` to set beside it; None where there is no such.
    source
        Where it was read.
    methods
        The columns, in the words of this project.
    rows
        For each pruning ratio in percent, one accuracy per method.
    """

    setting: str
    criterion: str
    subject: str | None
    source: str
    methods: tuple[str, ...]
    rows: dict[int, tuple[float, ...]]


_LBYL_CODE = "README of the LBYL authors' code, github.com/ICML2022-LBYL/LBYL2022"
_NM_CODE = "README of the Neuron Merging authors' code, github.com/friendshipkim/neuron-merging"
_ALL: tuple[str, ...] = ("none", "nm", "lbyl")

TABLES = (
    PublishedTable(
        "VGG-16, CIFAR-10, l2",
        "l2",
        "vgg16_cifar10",
        _LBYL_CODE,
        _ALL,
        {
            10: (89.43, 91.93, 92.04),
            20: (71.77, 87.24, 87.84),
            30: (56.95, 76.91, 83.25),
            40: (31.74, 54.32, 66.81),
            50: (12.37, 32.58, 45.71),
        },
    ),
    PublishedTable(
        "LeNet-300-100, Fashion-MNIST, l2",
        "l2",
        "lenet_300_100_fashion",
        _LBYL_CODE,
        _ALL,
        {
            50: (87.86, 87.86, 88.83),
            60: (83.03, 88.07, 87.75),
            70: (71.21, 83.27, 83.92),
            80: (63.90, 77.11, 78.05),
        },
    ),
    PublishedTable(
        "ResNet-50, CIFAR-100, l2",
        "l2",
        None,
        _LBYL_CODE,
        _ALL,
        {
            10: (75.14, 77.28, 78.14),
            20: (63.39, 72.73, 76.15),
            30: (39.96, 64.47, 73.29),
            40: (15.32, 46.40, 65.21),
            50: (5.22, 25.98, 52.61),
        },
    ),
    PublishedTable(
        "LeNet-300-100, Fashion-MNIST, l1, uncompressed 89.80",
        "l1",
        "lenet_300_100_fashion",
        _NM_CODE,
        ("none", "nm"),
        {50: (88.40, 88.69), 60: (85.17, 86.92), 70: (71.26, 82.75), 80: (66.76, 80.02)},
    ),
)

NOTES = (
    "The LBYL authors list another lambda1 and lambda2 for each row: on VGG-16 lambda1 1e-6 "
    "to 4e-5 and lambda2 1e-4 to 1e-2, on LeNet-300-100 lambda2 1e-6 to 0.6. "
    f"The Neuron Merging authors ({_NM_CODE}) also give VGG-16 on CIFAR-10 at 64 % fewer "
    "parameters, unequal ratios by layer: 93.70 uncompressed; 88.70 dropped and 93.16 merged by "
    "l1, 89.14 and 93.16 by l2, 87.85 and 93.10 by gm.",
    "Not found in a source that could be read: the tables of the paper itself (arXiv 2502.08474; "
    "only its abstract), its ResNet-56 on CIFAR-10, and its figures for l1 and gm. None is quoted.",
)
