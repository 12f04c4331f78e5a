"""Looking into the way of one photo: the decoder's maps, the poolings' switches, what proposals do."""
