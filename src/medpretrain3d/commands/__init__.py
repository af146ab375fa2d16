"""One thin module per command: arguments, a call into the library, what is printed."""
