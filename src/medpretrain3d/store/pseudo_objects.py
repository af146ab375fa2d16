"""What says in a case's sidecar that its objects were found by rules and that nobody labelled them."""

PSEUDO_OBJECTS = "pseudo_objects"
