"""Seconds of one Op: roofline and efficiency curves of a device, collectives of a network, intervals of both."""
