"""The operations of ramen.ops, faster: cpu/ in C, cuda/ in Triton."""
