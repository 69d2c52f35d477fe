"""Operations on whole networks: put blocks in, fold them to convolutions, prove that nothing changed."""
