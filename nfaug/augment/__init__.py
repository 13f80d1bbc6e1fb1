"""NFAugment, the batch transform, and what it is made of."""
