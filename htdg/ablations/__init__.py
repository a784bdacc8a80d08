"""The ablations of the paper's Table 6: what each part of the method is worth."""
