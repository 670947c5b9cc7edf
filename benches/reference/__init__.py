"""BYOL on these patches as a competent user writes it in plain PyTorch: what rsdnet is measured against.

data.py reads patches by py-lmdb and the safetensors package in a DataLoader's workers, transforms.py makes views of
them (kornia on batches, torchvision on single patches), model.py holds the networks, optim.py LARS and the average of
the target, train.py the step and the loop. Hyper-parameters, learning rate and tau are rsdnet's own: the two differ in
how they compute, and in nothing they compute.
"""
