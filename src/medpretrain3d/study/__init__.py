"""From finished runs to an answer: reading run folders, paired differences, one HTML report."""
