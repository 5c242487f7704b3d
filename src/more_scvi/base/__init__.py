"""The linear base: what a cell is before the first gradient step, fitted in closed form and without labels."""
