"""Speed side by side with other libraries, on the same work, in one run."""
