"""Twins in torch itself for any device: gradients written out, because autograd's own take more passes over memory."""
