"""How algorithms with settings are written: ``ddpg,custom_ddpg:gamma=0.9,batch_size=128``."""


def pieces(text: str, separators: str) -> list[str]:
    """
    Cut a text after separators, but not inside brackets.

    :param text: Such as ``ddpg,td3:train_freq=[1, episode]``
    :param separators: One character each
    :return: The pieces, which joined are the text; all but the last end with a separator
    """
    found, depth = [""], 0
    for character in text:
        found[-1] += character
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            found.append("")
    return found
