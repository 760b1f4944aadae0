"""Experiments as plain data; nothing here imports rrl_jax."""
