"""The experiments that come with Conveyor, a file each: data set, network, training, gate."""
