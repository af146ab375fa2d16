"""What says in a case's sidecar that its objects were found by rules and that nobody labelled them."""

PSEUDO_OBJECTS = "pseudo_objects"
PARTLY_HIDDEN = "partly_hidden"
"""In there: ids of objects of which others hide so much in the mask that their voxels do not fill their box."""
