"""What a run leaves on disk.

    directory.py  the adapter directory: who may write into it, what is in it when a run is done

"""
