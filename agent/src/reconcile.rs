mod effective;
