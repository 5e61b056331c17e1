"""dropcore in PyTorch: functions, modules, and `replace_dropout` for the models that you have.

The words are PyTorch's: ``p`` is the fraction dropped, `inplace` writes into the input. Tensors on
the CPU are used where they are, without a copy. The backward pass draws the mask again from its
key, and no mask is kept. Without a key, one is drawn from PyTorch's generator, so that
``torch.manual_seed`` repeats a run.
"""

from dropcore._base.extras import require
from dropcore._openmp import share_threads

share_threads("torch")
require("torch", "torch", "dropcore.torch")

from dropcore.torch._attention import fast_dropout, scaled_dot_product_attention  # noqa: E402
from dropcore.torch._functions import (  # noqa: E402
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
    max_norm_,
)
from dropcore.torch._modules import (  # noqa: E402
    GRU,
    LSTM,
    RNN,
    AlphaDropout,
    DropConnect,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
    MaxNorm,
    MultiheadAttention,
)
from dropcore.torch._replace import Replacement, replace_dropout  # noqa: E402

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AlphaDropout",
    "DropConnect",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "MaxNorm",
    "MultiheadAttention",
    "Replacement",
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "fast_dropout",
    "feature_alpha_dropout",
    "max_norm_",
    "replace_dropout",
    "scaled_dot_product_attention",
]
