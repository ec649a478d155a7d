"""Twins in torch itself for any device: fewer passes over memory than autograd's gradients take, or fewer products."""
