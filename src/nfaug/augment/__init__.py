"""NFAugment, the batch transform, its settings and its parts."""
