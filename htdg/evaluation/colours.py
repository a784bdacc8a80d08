"""The colours of figures and overlays.

Blue is normal, vermillion anomalous, from Okabe and Ito's palette, which colour-blind readers can
read too. They have a file of their own, so that the command line can name them without Matplotlib.
"""

NORMAL, ANOMALOUS, GREY = "#0072B2", "#D55E00", "#666666"
OTHERS = ("#009E73", "#CC79A7")
#: Colours of the tint of overlays. Which of them is seen best depends on the images.
TINTS = {"vermillion": ANOMALOUS, "cyan": "#00C8FF", "magenta": "#E600E6", "yellow": "#FFE600"}
