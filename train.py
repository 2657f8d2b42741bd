"""Train a segmentation model: python train.py loss=focal_dice dataset=inria"""

from rsseg.commands.train import main

if __name__ == "__main__":
    main()
