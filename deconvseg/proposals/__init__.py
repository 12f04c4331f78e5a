"""Object proposals: structured edges, EdgeBoxes, and the boxes the network looks at."""
