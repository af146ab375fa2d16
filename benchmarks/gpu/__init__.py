"""`make bench-gpu`: what only a GPU can tell, in ten minutes and one table. *Not yet run* on a GPU."""
