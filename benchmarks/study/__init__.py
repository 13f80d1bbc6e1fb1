"""Does NFA help? Accuracy with 95% confidence intervals over seeds.

One cell trains one classifier on a few labelled images and measures it once. `cells.py` defines a
cell, `tables.py` the cells of each table, `run.py` runs them, `report.py` writes the tables.

To extend the study, add one entry to a registry:

- a data set: `DATASETS` in `data.py`;
- a network: `NETWORKS` in `classifiers.py`;
- a rival of NFA: `ARMS` in `arms.py`;
- a flow, by its training images or its name: `FLOWS` in `flows.py`;
- a table: `TABLES` in `tables.py`.
"""
