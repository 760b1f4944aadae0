"""Studies: several experiments and seeds as plain data; nothing here imports rrl_jax."""
