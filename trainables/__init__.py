"""The work: what a trial does to a model. One file per method; `bench/` holds what they share."""

import logging

# transformers imports torchao, which tells every process of kernels for other machines.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
