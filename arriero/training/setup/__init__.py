"""From a model to the steps that a run computes, with the proof that the first one is right.

step_setup.py   mode, kernels and plan for a model, announced with reasons
graph_setup.py  whether rows may be captured as CUDA graphs
trace.py        one pass in which every decoder layer starts from known states
verify.py       some examples computed both ways: the plan's and the plain padded one

"""
