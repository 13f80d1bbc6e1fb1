"""The fixed-point iteration for class gaussians (Enescu & Sahbi 2024, Eqs. 5-8)."""
