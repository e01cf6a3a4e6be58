"""What the next run makes of a file that the page saved."""

from eagc_jax.gcd.decisions import apply, read_decisions


def labels_after(discovery, path):
    """What the next run makes of the file: each item's class, "junk" or ""."""
    decisions = read_decisions(path)
    records, constraints = apply(discovery.records, decisions, discovery.features)
    names = (*records.class_names, "")
    classes = dict.fromkeys(constraints.junk, "junk")
    for name, label in zip(records.ids, records.labels, strict=True):
        classes[name] = names[label]
    return decisions, classes, constraints


def items_of(classes, name):
    return sorted(int(i.split()[1]) for i, one in classes.items() if one == name)
