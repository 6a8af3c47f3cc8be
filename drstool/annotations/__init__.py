"""Files of annotations, each of one image or of a list of images: tags and ground truth, without their dataset."""
