"""What Streamlit runs at every visit and every click.

It stands alone in its folder: were there a folder `pages` beside it, Streamlit would run a page that is asked for by
its address in its own way, without the frame, so in no chosen language and for whoever asks.
"""

from arriero.web.page import main

if __name__ == "__main__":  # Streamlit makes it the main module, which a process spawned by multiprocessing imports
    main()
