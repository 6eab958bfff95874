"""Were the answers kept: limits, comparisons and the accuracy gate."""
